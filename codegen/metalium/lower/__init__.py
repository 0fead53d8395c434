"""From equations to steps: a line of the stack as what one core would do.

Input: the step form of a model.  Output: a `plan.ModelPlan` without a device, its arrays without places; how the work
is dealt out to cores is decided afterwards.  `lines.schedule` is the door.
"""
