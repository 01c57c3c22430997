"""The night: from logged escalations to a gated, quantised student bundle.

Floor 4. `run.run_night` is the flow: collect, curate, label, split, build, distil, export,
compress, calibrate, certify, gate, publish. `refresh.refresh_head` is the short way: head,
prototypes and calibration in seconds, the encoder's bytes unchanged. `run.first_student` makes the
first bundle. Stages are pure functions of inputs, recipe and seed; what they make is addressed by
its content.
"""
