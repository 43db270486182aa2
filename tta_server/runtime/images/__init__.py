"""From bytes to images: each format, its limits, and who may decode how much; nothing else of the runtime."""
