"""The fast path: TRL's batches, losses and metrics on a forward pass that computes nothing twice and nothing in vain.

A padded batch becomes one flat row without padding (``layout``), attention runs over its segments (``attention``), the
rejected answer of a pair sees the prompt of the chosen one, low-rank adapters are one operation a layer (``lora``), and
the language-model head runs on the trained tokens alone (``head``). ``support`` says where this does not hold; TRL's
own forward pass runs there.
"""
