package controllers

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

const (
	// podGCInterval is the time between two looks at all pods.
	podGCInterval = 20 * time.Second
	// nodeQuarantine is for how long a node has to be missing before its pods are removed.
	nodeQuarantine = 40 * time.Second
	// DefaultFinishedPods is how many finished pods are kept.
	DefaultFinishedPods = 12500
)

// podGC removes pods that nobody else will: finished ones beyond a number, those of nodes that are gone, those that were to be
// deleted before they had a node.
type podGC struct {
	client  kubernetes.Interface
	pods    cache.Indexer
	nodes   cache.Indexer
	synced  []cache.InformerSynced
	clock   clock.Clock
	lg      *zap.Logger
	keep    int
	missing map[string]time.Time // nodes that pods name and that are not there, since when
}

// NewPodGC makes the controller that removes pods that nobody else will. keep is how many finished pods stay, the youngest.
func NewPodGC(client kubernetes.Interface, i informers.SharedInformerFactory, c clock.Clock, lg *zap.Logger, keep int) Controller {
	if lg == nil {
		lg = zap.NewNop()
	}
	pi, ni := i.Core().V1().Pods().Informer(), i.Core().V1().Nodes().Informer()
	return &podGC{
		client: client, pods: pi.GetIndexer(), nodes: ni.GetIndexer(), synced: []cache.InformerSynced{pi.HasSynced, ni.HasSynced},
		clock: c, lg: lg.Named("podgc"), keep: keep, missing: map[string]time.Time{},
	}
}

// Run works until ctx ends.
func (g *podGC) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), g.synced...) {
		return ctx.Err()
	}
	t := g.clock.NewTicker(podGCInterval)
	defer t.Stop()
	for {
		if err := g.collect(ctx); err != nil && ctx.Err() == nil {
			g.lg.Warn("not all pods could be removed; they will be tried again", zap.Error(err))
		}
		select {
		case <-t.C():
		case <-ctx.Done():
			return nil
		}
	}
}

func (g *podGC) collect(ctx context.Context) error {
	var finished []*corev1.Pod
	var errs error
	named := map[string]bool{}
	for _, x := range g.pods.List() {
		p := x.(*corev1.Pod)
		named[p.Spec.NodeName] = true
		switch {
		case p.Spec.NodeName == "" && p.DeletionTimestamp != nil:
			errs = errors.Join(errs, g.remove(ctx, p, "", ""))
		case p.Spec.NodeName != "" && g.orphaned(ctx, p.Spec.NodeName):
			errs = errors.Join(errs, g.remove(ctx, p, "DeletionByPodGC", "PodGC: node no longer exists"))
		case p.DeletionTimestamp == nil && (p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed):
			finished = append(finished, p)
		}
	}
	for node := range g.missing {
		if !named[node] {
			delete(g.missing, node)
		}
	}
	slices.SortFunc(finished, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for _, p := range finished[:max(0, len(finished)-g.keep)] {
		errs = errors.Join(errs, g.remove(ctx, p, "", ""))
	}
	return errs
}

// orphaned says whether a node has been missing for long enough, and is missing on the API server as well.
func (g *podGC) orphaned(ctx context.Context, node string) bool {
	if _, exists, err := g.nodes.GetByKey(node); err != nil || exists {
		delete(g.missing, node)
		return false
	}
	now := g.clock.Now()
	since, known := g.missing[node]
	switch {
	case !known:
		g.missing[node] = now
		return false
	case now.Sub(since) < nodeQuarantine:
		return false
	}
	_, err := g.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	return apierrors.IsNotFound(err)
}

// remove deletes a pod at once. One that has not ended is marked as failed before, with a condition that says why.
func (g *podGC) remove(ctx context.Context, p *corev1.Pod, reason, message string) error {
	pods := g.client.CoreV1().Pods(p.Namespace)
	if reason != "" && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
		c := p.DeepCopy()
		c.Status.Phase = corev1.PodFailed
		c.Status.Conditions = append(slices.DeleteFunc(c.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget }),
			corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message,
				LastTransitionTime: metav1.Time{Time: g.clock.Now().Truncate(time.Second)},
			})
		if _, err := pods.UpdateStatus(ctx, c, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	err := pods.Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
