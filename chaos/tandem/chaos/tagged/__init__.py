"""An engine whose KV says whose it is: every stale, torn or foreign byte is found in the very next step.

Only the forward pass is a stand-in; scheduler, block table, sampler, text, hand-over and processes are the product's.
Workers with this engine run as `tandem.chaos.tagged.worker_process`; nothing in ``cluster.yaml`` reaches it.
"""
