"""What leaks, and what to do about it: attacks that measure, defences that cost accuracy.

Nothing here knows sockets or the training loop. Attacks take what a party really received and the
truth that only the other side knows; defences are transforms of what is about to be sent.

| module | what is in it |
| --- | --- |
| `scores` | AUC, and how it is read |
| `label_attacks` | labels from gradients (norm, direction, spectrum) and from a few known labels |
| `input_attacks` | inputs from embeddings (ridge, decoder), distance correlation |
| `leakage`, `findings` | the leak report of a run, and what it found in words |
| `noise` | Gaussian noise that nobody else can draw again |
| `gradient_defences`, `marvell` | noise on outgoing gradients |
| `label_dp` | randomised response |
| `embedding_defences` | clipping, noise and decorrelation of outgoing embeddings |
| `accountant` | epsilon of repeated Gaussian releases |
| `dpsgd` | noise on the steps of a party's own weights |
| `mask_keys`, `masking` | sums of embeddings of which the Host sees no single one |
"""
