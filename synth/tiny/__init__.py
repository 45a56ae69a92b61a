"""The small world of the tiny reasoner: word problems it understands, made by rule."""
