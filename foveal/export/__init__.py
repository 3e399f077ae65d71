"""Export to ONNX with a proof: the graph of a detector, its file, and the comparison of both on images."""
