"""Workers: requests and replies, pools of Ray actors or this process, the Ray session."""
