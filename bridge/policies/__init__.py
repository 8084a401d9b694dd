"""What decides in a closed loop: any callable from the last frame to the next motion.

    def my_policy(frame_HW3, last: Action) -> Action    # or a pair: speed in m/s, yaw rate in rad/s

    contract.py    calling a policy, and what is said when it fails
    lane_keep.py   the policy that ships: keeps its lane on predicted frames alone
    lanes.py       where the lane is in a frame

A policy sees pixels and its own last motion. It knows no simulator, no session and no map.
"""
