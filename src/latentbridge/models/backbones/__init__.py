"""The unified backbones that post-training and the measures know, behind one contract."""
