"""Images with boxes and masks, as COCO writes them down."""
