"""What the columns of MixChain mean, for the cards of its versions."""

MEANING = {
    "solution_index": "1 for the smallest alpha, and so on; 0 for the source's own solution.",
    "alpha": "Where between the two models the chain was drawn; null at index 0.",
    "origin": "`generated`, or `ground_truth` for the source's own solution.",
    "direction": "What growing alpha does to lengths, as the recipe states it.",
    "length_rank": "1 for the shortest of the question's chains that the filter mode kept; equal lengths share a rank.",
    "length_monotone": "Whether the question's lengths follow the direction.",
    "beta": "CoT-Valve++: 1 for the question's shortest right chain, 0 for its longest; null for a wrong chain, or where all are of one length.",
    "dup_of": "The first chain of the question with the same text.",
    "rows.answer": "The worked solution, where the source has one: the published meaning.",
    "target": "The final answer.",
    "solution_k": "The chain at index k; `solution_0` is the source's own solution. k follows alpha, never the length.",
    "solution_k_token": "Tokens of the chain at index k.",
    "correct_k": "Whether the chain at index k ends in the right answer; null: undecided.",
    "alpha_k": "The alpha of index k.",
    "origin_k": "`generated` or `ground_truth`.",
    "finish_reason_k": "`stop`, or `length` where the chain was cut off.",
    "length_rank_k": "1 for the shortest of the question's chains.",
    "beta_k": "As `beta` in `traces`.",
    "tokenizer_id": "Whose tokens are counted.",
}
