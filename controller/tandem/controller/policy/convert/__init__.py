"""Policies out of other autoscalers' files: HorizontalPodAutoscaler (autoscaling/v2) and Ray Serve."""
