"""How a step is executed: plain, or as one compiled or captured graph."""
