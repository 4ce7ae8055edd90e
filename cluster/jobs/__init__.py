"""Jobs on a Ray cluster: what is sent there, the job server, and following a job until its end."""
