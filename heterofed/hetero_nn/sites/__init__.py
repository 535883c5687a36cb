"""Lets several sites of one role train one feature model on the rows that each of them has.

The Host merges the features of the sites, and user code gets one tensor of the role. After each
batch the sites add up the gradients of their feature model, masked, and step on the sum.
"""
