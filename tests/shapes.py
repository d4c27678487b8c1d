"""What the tiny models of families.py hold, by hand: maps of each role, and their shapes."""

LAYERS, WIDTH, INNER, HEADS = 3, 32, 64, 4
TWO_STACKS = ("t5", "bart")
# Two key-value heads for four query heads.
GATED = GROUPED = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "eurobert")
WIDE_HEADS = ("qwen3", "gemma3_text")  # together twice as wide as the model
FUSED = ("gpt2", "modernbert", "gpt_neox")
NO_BIAS = (  # in the body
    "llama", "mistral", "t5", "modernbert", "modernbert-decoder", "qwen3", "gemma3_text", "eurobert"
)  # fmt: skip
LINEAR = ("query", "key", "value", "output", "up", "gate", "down")


def expected(family: str) -> dict[str, int]:
    """How many maps and norms of each role a tiny model has."""
    layers = 1 if family == "albert" else LAYERS  # one set of weights serves all layers
    stacks = 2 if family in TWO_STACKS else 1
    attentions = layers * (3 if family in TWO_STACKS else 1)  # cross attention in the decoder
    per_layer = layers * stacks
    counts = dict.fromkeys(("query", "key", "value", "output", "attention_norm"), attentions)
    gates = per_layer if family in GATED else 0
    return counts | {"up": per_layer, "down": per_layer, "ffn_norm": per_layer, "gate": gates}


def shape(family: str, role: str) -> tuple[int, int]:
    """(in, out) of a role's map."""
    wide = 2 * INNER if family.startswith("modernbert") else INNER  # gate and up in one map
    heads = 2 * WIDTH if family in WIDE_HEADS else WIDTH
    narrow = heads // 2 if family in GROUPED else heads
    shapes = {"up": (WIDTH, wide), "gate": (WIDTH, INNER), "down": (INNER, WIDTH)}
    shapes |= {"query": (WIDTH, heads), "output": (heads, WIDTH)}
    shapes |= {"key": (WIDTH, narrow), "value": (WIDTH, narrow)}
    return shapes.get(role, (WIDTH, WIDTH))
