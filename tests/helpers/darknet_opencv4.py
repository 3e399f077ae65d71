"""Run by the interpreter of an environment with OpenCV 4, which conflicts with this project's packages.

``python darknet_opencv4.py CFG WEIGHTS INPUT.npy OUT.npz LAYER...``: the raw output of every convolution of that index
(as the cfg counts), and where reorg layers are named ``reorg_<index>`` of those too. OpenCV 5 has no Darknet importer.
"""

from __future__ import annotations

import sys

import cv2
import numpy as np

cfg, weights, source, out, *layers = sys.argv[1:]
net = cv2.dnn.readNetFromDarknet(cfg, weights)
net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
net.enableFusion(False)  # else a convolution's output is that of the activation behind it
net.setInput(np.load(source))
found = net.forward([name if "_" in name else f"conv_{name}" for name in layers])
np.savez(out, version=np.array(cv2.__version__), **{name: value for name, value in zip(layers, found, strict=True)})
