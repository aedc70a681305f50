"""The wafer-scale target: machine, layouts, program, engines, planning."""
