"""Tables in; HTML, terminal text or axes out. Computes no physics."""
