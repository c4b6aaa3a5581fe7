"""First-party heads: class, labels, boxes, masks, depth and the image itself, from features of any stride."""
