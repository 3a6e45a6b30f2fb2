"""The style sheet of the report, for phones and screens, light and dark."""

CSS = """
:root{--ink:#1f2733;--paper:#fff;--faint:#667085;--line:#e4e7ec;--card:#f7f8fa;--accent:#2563a8;
--wrong:#b4521e}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ef;--paper:#14181f;--faint:#98a2b3;
--line:#2c333d;--card:#1c222b;
--accent:#6aa7e8;--wrong:#e08a55}}
*{box-sizing:border-box}
body{margin:0 auto;padding:24px 16px 64px;max-width:1040px;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 4px}
h2{font-size:1.15rem;margin:40px 0 8px}
p{margin:4px 0 12px;max-width:70ch}
.lead,.remark,figcaption,.facts dt{color:var(--faint)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(120px,1fr));gap:12px;margin:20px 0}
.card{background:var(--card);border-radius:10px;padding:12px 14px}
.card b{display:block;font-size:1.7rem;line-height:1.2;font-variant-numeric:tabular-nums}
.card span{color:var(--faint);font-size:.85rem}
.card.first b{color:var(--accent)}
.scroll{overflow-x:auto}
.tall{max-height:520px;overflow-y:auto;border:1px solid var(--line);border-radius:10px;
padding:4px 12px}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th{font-weight:500;text-align:left}
thead th{color:var(--faint);font-size:.8rem;font-weight:400}
th,td{padding:4px 8px 4px 0;vertical-align:middle}
.plain tbody tr{border-top:1px solid var(--line)}
.figure{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.bars th[scope=row]{width:30%;min-width:90px}
.bars td:nth-child(2){width:45%;min-width:70px}
.bar{display:block;height:10px;border-radius:5px;background:var(--line)}
.bar span{display:block;height:10px;border-radius:5px;background:var(--accent)}
.remark{font-size:.8rem;white-space:nowrap}
svg{width:100%;max-width:720px;height:auto;display:block}
.scroll svg{width:auto;max-width:none}
svg text{font:12px system-ui,sans-serif;fill:var(--ink)}
svg .faint{fill:var(--faint)}svg .small{font-size:11px}svg .on{font-size:11px;fill:var(--paper)}
.bars td.remark:empty{display:none}
svg .grid{stroke:var(--line)}svg .iso{fill:none;stroke:var(--faint);stroke-dasharray:2 4;opacity:.7}
svg .dot{fill:var(--accent);fill-opacity:.55;stroke:var(--paper)}
svg .column,svg .right{fill:var(--accent)}svg .wrong{fill:var(--wrong)}
svg .mark{stroke:var(--wrong);stroke-width:2}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,460px),1fr));gap:16px}
.gallery{align-items:start}
figure{margin:0;background:var(--card);border-radius:10px;padding:10px}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:6px}
.pair img{width:100%;border-radius:6px;display:block}
figcaption{font-size:.85rem;margin-top:6px}
.notes li{margin:4px 0}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px;font-size:.9rem}
.facts dd{margin:0}
@media (max-width:520px){.facts{grid-template-columns:1fr}.facts dd{margin-bottom:6px}
.bars .remark{display:none}}
"""
