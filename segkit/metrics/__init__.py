"""Metrics against ground truth; each has `update(truth, prediction)` and `compute()`.

evaluate.py          evaluate predictions in a task; comparisons
task_metrics.py      the metrics of a task, updated by one process or by workers that share a set
batches.py           ground truth and predictions of the same images, batch by batch

panoptic.py          PanopticQuality: PQ, SQ, RQ
semantic.py          SemanticIoU: mIoU, accuracies, the confusion between classes
instance.py          InstanceAP: COCO and LVIS AP by hotcoco, pycocotools or faster-coco-eval
detections.py        DetectionMatches: AP from single matches, for bootstrap and reports
boundary.py          the same metrics by boundary IoU
tide.py              TideErrors: error types of instances, confused classes
box_prompt_iou.py    BoxPromptIoU: masks predicted from box prompts
zero_shot.py         means over seen and unseen classes
mask_recall.py       share of the true masks that are predicted, whatever their class
bootstrap.py         intervals over draws of the images, paired comparison

regions.py           masked segments of a batch as columns, for the pixel metrics
image_rows.py        rows that the pixel metrics keep, each with its image
overlap.py           common pixels of two batches of regions
objects.py           instances of a batch as columns and as COCO records
shard_columns.py     read both from the Parquet columns of a shard set
sides.py             ground truth or predictions, as errors of metrics name them
predictions.py       predictions by image, from samples, shard sets or files
coco_predictions.py  COCO results and COCO panoptic files
class_lists.py       the classes that a file of predictions lists itself
png_predictions.py   a folder of index PNGs, for semantic figures
class_mapping.py     the evaluated classes; predictions in another vocabulary mapped to them
output.py            metrics.json, display names of figures, notes on them
"""
