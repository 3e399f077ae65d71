"""Exported detectors, run by ONNX Runtime alone: no torch"""
