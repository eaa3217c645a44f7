"""Objects of primitives with the published extents; colliders are boxes, capsules and spheres only.

Where the shape that touches is simpler than the shape that is seen, the first is hidden from the cameras.
"""
