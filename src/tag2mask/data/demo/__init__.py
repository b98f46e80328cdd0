"""Built-in demo data: drawn nature scenes with tags and exact masks, so that everything runs without a download."""

from tag2mask.data.demo.objects import DEMO_CLASSES
from tag2mask.data.demo.scenes import Scene, render_scene
from tag2mask.data.demo.writer import write_demo_data

__all__ = ["DEMO_CLASSES", "Scene", "render_scene", "write_demo_data"]
