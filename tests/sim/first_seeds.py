"""The first seed that notices each mutant.

Any change of the product moves the worlds, so the test looks on in others; `python -m
tests.sim.mutants` writes the table anew.
"""

FIRST_SEED = {
    "leads_before_its_no_op": 0,
    "refuses_at_once": 2,
    "keeps_overlay": 0,
    "keeps_queue": 7,
    "calls_appended_unavailable": 2,
    "answers_before_apply": 0,
    "reads_no_overlay": 0,
    "believes_slow_work": 0,
    "entry_ends_in_answer": 0,
    "chain_of_applied_only": 0,
    "seq_of_clock": 0,
    "forgets_pending_requests": 3,
    "forgets_stored_requests": 0,
    "writes_no_history": 0,
    "splits_transactions": 0,
    "floor_of_clock": 0,
    "trims_before_the_floor": 3,
    "resumes_below_the_floor": 3,
    "applies_any_term": 1,
    "applies_before_durable": 7,
    "image_leaves_streams": 0,
    "deposed_leader_is_not_told": 1,
    "reads_without_barrier": 3,
    "reads_on_followers": 0,
    "read_index_of_old_answers": 1,
    "cuts_on_duplicates": 0,
    "acknowledges_before_sync": 20,
    "commits_unverified": 21,
    "compacts_what_is_not_durable": 10,
    "store_with_holes": 0,
}
