"""Models: pretrained decoders, HOPE models trained from scratch, and the fast memory."""
