package controlplane

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// WaitingPod is a pod that does not run yet, or not any more.
type WaitingPod struct {
	Namespace, Name, Node string
	Reason, Message       string // of the container that waits, or of the condition that does not hold
	Image                 string // of that container
}

// Waiting are the cluster's pods that wait for something, in the API server's order. A container says why in its state
// (ErrImagePull, CrashLoopBackOff); before there are any, the pod's conditions do (Unschedulable).
func (e *Engine) Waiting(ctx context.Context, id string) ([]WaitingPod, error) {
	client, err := e.clientset(id)
	if err != nil {
		return nil, err
	}
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("control plane %s: list the pods: %w", id, err)
	}
	var out []WaitingPod
	for _, p := range pods.Items {
		if w, waits := waiting(p); waits {
			out = append(out, w)
		}
	}
	return out, nil
}

func waiting(p corev1.Pod) (WaitingPod, bool) {
	w := WaitingPod{Namespace: p.Namespace, Name: p.Name, Node: p.Spec.NodeName}
	images := map[string]string{}
	for _, c := range append(p.Spec.InitContainers, p.Spec.Containers...) {
		images[c.Name] = c.Image
	}
	for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		if s.State.Waiting != nil && s.State.Waiting.Reason != "ContainerCreating" && s.State.Waiting.Reason != "PodInitializing" {
			w.Reason, w.Message, w.Image = s.State.Waiting.Reason, s.State.Waiting.Message, images[s.Name]
			return w, true
		}
	}
	if p.Status.Phase == corev1.PodPending && p.Spec.NodeName == "" {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				w.Reason, w.Message = c.Reason, c.Message
				return w, true
			}
		}
	}
	return w, false
}
