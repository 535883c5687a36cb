"""Measures what a run leaks by attacks, and reduces it by defences, which cost accuracy.

This package knows neither sockets nor the training loop. An attack takes the data that a party
received and the truth that only the other side knows. A defence transforms data before they are
sent.

| module | content |
| --- | --- |
| `scores` | the AUC of scores |
| `label_attacks` | labels from gradients (norm, direction, spectrum) and from a few known labels |
| `input_attacks` | inputs from embeddings (ridge, decoder), distance correlation |
| `leakage`, `findings` | the leak report of a run, and its findings in words |
| `noise` | Gaussian noise that no other party can reproduce |
| `gradient_defences`, `marvell` | noise on outgoing gradients |
| `synthetic_gradients` | outgoing gradients that are predicted from embeddings, with noise |
| `label_dp` | randomised response |
| `embedding_defences` | clipping, noise and decorrelation of outgoing embeddings |
| `accountant` | epsilon of repeated Gaussian releases |
| `dpsgd` | noise on the steps of a party's own weights |
| `mask_keys`, `masking` | sums of embeddings that hide each single embedding from the Host |
| `mask_exact`, `mask_seal` | sums of gradients of sites, which hide each part and the sum from it |
"""
