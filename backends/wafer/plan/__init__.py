"""From a legal tensor graph to a placed program, in steps that each have a file.

``lift`` reads the graph as work on one item (`tasks`), ``stages`` groups it, ``layouts`` decides how every value lies, ``select`` makes a
kernel of every task, ``size`` chooses rectangles, ``pack`` places them, and ``planner`` joins the steps. Only ``lift`` knows the graph.
"""
