"""From one core to many: which arrays are split, what is gathered, where arrays lie in L1.

Input: a program for one core, and a device.  Output: the same over its cores, with offsets and totals.
"""
