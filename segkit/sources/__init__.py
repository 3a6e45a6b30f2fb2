"""Native datasets and their conversion to shard sets.

Conversion:

    conversion_options.py  the options of a conversion
    engine.py          write the shards of a source in parallel, publish a version
    plan.py            group records into shards; check that every planned image was converted
    provenance.py      record what a shard is made from
    resume.py          decide which finished shards of an interrupted run are used
    ledger.py          count what becomes of every image and annotation; codes of defects
    notes.py           find classes that share one name, and annotations that nothing counts
    quarantine.py      write the losses to quarantine.jsonl

The interface, and what sources share:

    source.py          Record and Source: an ordered stream of records, each becomes one sample
    categories.py      taxonomy of a source from its own list and the known vocabularies
    image_files.py     find, read and check image files
    file_claims.py     refuse one file for several records
    record_images.py   the image of a record: its file, or the one that annotations embed
    label_maps.py      read ids or indices from PNG label maps
    index_masks.py     base of the sources of index PNGs: images and masks paired by name
    labels_file.py     read lists of labels, one class a line
    vocabulary_file.py  open the vocabulary that a user names
    class_info.py      read class tables in the form of ADE20K's objectInfo150.csv

What people draw in labeling tools:

    drawn_source.py    base of their sources: annotations become segments
    drawn_shapes.py    boxes, polygons, ellipses and masks
    annotation_files.py  folders with an annotation file for each image
    xml_files.py       read XML without entities, one element at a time
    data_yaml.py       read data.yaml of YOLO
    yolo_files.py      find the images and label files of YOLO
    label_studio_regions.py  read the regions of Label Studio
    file_format.py     the format of an annotation file, for errors that name the right command
    recognize.py       the format of a data set, for `convert auto`

COCO's JSON files:

    json_stream.py     read JSON of any size, one list element at a time
    external_sort.py   sort annotations to their images in temporary files
    coco_fields.py     read the fields of COCO records
    coco_json.py       read a COCO file; the base of the COCO sources

Sources:

    coco_instances.py  COCO instances, LVIS
    coco_panoptic.py   COCO panoptic
    coco_joined.py     COCO panoptic with the instances of the same images
    objects365.py      Objects365 v2
    visual_genome.py   Visual Genome
    semantic_masks.py  any dataset of semantic masks
    ade.py             ADE20K SceneParsing
    cityscapes.py      Cityscapes gtFine
    voc.py             Pascal VOC segmentation
    yolo_labels.py     YOLO: boxes and polygons
    voc_boxes.py       Pascal VOC detection
    cvat_xml.py        CVAT for images 1.1
    label_studio.py    Label Studio's JSON export
    labelme_json.py    labelme
"""
