"""Structure: networks whose connections are those of a graph."""
