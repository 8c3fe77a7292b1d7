package cluster

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keelson-io/keelson/orchestrator/scheduler"
	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
)

// ExplainPod asks the API server for what a pod's placement depends on, and tells why the pod is, or is not, placed. conf is
// the scheduler's configuration; nil: the default.
func ExplainPod(ctx context.Context, rc *rest.Config, conf *config.Configuration, namespace, name string) (*scheduler.Explanation, error) {
	c, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if conf == nil {
		conf = config.Default()
	}
	in := scheduler.Situation{Configuration: conf, Plugin: scheduler.Builtin(nil, conf)}
	if in.Pod, err = c.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
		return nil, err
	}
	nodes, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range nodes.Items {
		in.Nodes = append(in.Nodes, &nodes.Items[i])
	}
	pods, err := c.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range pods.Items {
		in.Pods = append(in.Pods, &pods.Items[i])
	}
	if in.Others, err = surroundings(ctx, c); err != nil {
		return nil, err
	}
	return scheduler.Explain(ctx, in)
}

// surroundings are the objects besides nodes and pods that placements depend on.
func surroundings(ctx context.Context, c kubernetes.Interface) ([]runtime.Object, error) {
	core, apps, storage, all := c.CoreV1(), c.AppsV1(), c.StorageV1(), metav1.ListOptions{}
	lists := []func() (runtime.Object, error){
		func() (runtime.Object, error) { return core.Namespaces().List(ctx, all) },
		func() (runtime.Object, error) { return core.Services(corev1.NamespaceAll).List(ctx, all) },
		func() (runtime.Object, error) {
			return core.ReplicationControllers(corev1.NamespaceAll).List(ctx, all)
		},
		func() (runtime.Object, error) { return apps.ReplicaSets(corev1.NamespaceAll).List(ctx, all) },
		func() (runtime.Object, error) { return apps.StatefulSets(corev1.NamespaceAll).List(ctx, all) },
		func() (runtime.Object, error) {
			return c.PolicyV1().PodDisruptionBudgets(corev1.NamespaceAll).List(ctx, all)
		},
		func() (runtime.Object, error) {
			return core.PersistentVolumeClaims(corev1.NamespaceAll).List(ctx, all)
		},
		func() (runtime.Object, error) { return core.PersistentVolumes().List(ctx, all) },
		func() (runtime.Object, error) { return storage.StorageClasses().List(ctx, all) },
		func() (runtime.Object, error) { return storage.CSINodes().List(ctx, all) },
		func() (runtime.Object, error) { return storage.CSIDrivers().List(ctx, all) },
		func() (runtime.Object, error) {
			return storage.CSIStorageCapacities(corev1.NamespaceAll).List(ctx, all)
		},
		func() (runtime.Object, error) { return storage.VolumeAttachments().List(ctx, all) },
	}
	var out []runtime.Object
	for _, list := range lists {
		l, err := list()
		if err != nil {
			return nil, err
		}
		if err := meta.EachListItem(l, func(o runtime.Object) error {
			out = append(out, o)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return out, nil
}
