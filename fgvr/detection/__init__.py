"""Object detection with MaKD's aspect head: torchvision's Faster R-CNN, COCO files, COCO's average precision."""
