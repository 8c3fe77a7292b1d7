package workers

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// callTimeout bounds calls to the runtime that should be quick.
	callTimeout = 2 * time.Minute
	// sandboxTimeout bounds the making of a sandbox, which waits for the network.
	sandboxTimeout = 4 * time.Minute
)

// cri asks the runtime.
type cri struct {
	runtime runtimeapi.RuntimeServiceClient

	mu   sync.Mutex
	name string // of the runtime, as it prefixes IDs
}

// prefix is the name of the runtime that IDs of containers carry in statuses.
func (r *cri) prefix(ctx context.Context) (string, error) {
	r.mu.Lock()
	name := r.name
	r.mu.Unlock()
	if name != "" {
		return name, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	v, err := r.runtime.Version(ctx, &runtimeapi.VersionRequest{Version: "0.1.0"})
	if err != nil {
		return "", fmt.Errorf("workers: the version of the runtime: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.name = v.RuntimeName
	return r.name, nil
}

// observe is what the runtime has of a pod. cache holds the statuses of containers that ended, which change no more.
func (r *cri) observe(ctx context.Context, uid types.UID, cache map[string]*container) (*observed, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	selector := map[string]string{labelUID: string(uid)}
	boxes, err := r.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: selector}})
	if err != nil {
		return nil, fmt.Errorf("workers: listing sandboxes: %w", err)
	}
	list, err := r.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: selector}})
	if err != nil {
		return nil, fmt.Errorf("workers: listing containers: %w", err)
	}
	o := &observed{containers: map[string][]*container{}}
	for _, b := range boxes.Items {
		s, err := r.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: b.Id})
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("workers: status of sandbox %s: %w", b.Id, err)
		}
		o.sandboxes = append(o.sandboxes, newSandbox(s.Status))
	}
	for _, item := range list.Containers {
		c := cache[item.Id]
		if c == nil {
			if c, err = r.container(ctx, item.Id, item.PodSandboxId); err != nil {
				return nil, err
			}
		}
		if c == nil {
			continue
		}
		if c.exited() && cache != nil {
			cache[c.id] = c
		}
		o.containers[c.name] = append(o.containers[c.name], c)
	}
	for id := range cache {
		if !o.has(id) {
			delete(cache, id)
		}
	}
	o.sort()
	return o, nil
}

func (o *observed) has(id string) (has bool) {
	o.each(func(c *container) { has = has || c.id == id })
	return has
}

// container is a container of the runtime, nil if it is gone.
func (r *cri) container(ctx context.Context, id, sandbox string) (*container, error) {
	s, err := r.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("workers: status of container %s: %w", id, err)
	}
	return newContainer(s.Status, sandbox), nil
}

// stopContainer asks for a container to end, and returns when it has.
func (r *cri) stopContainer(ctx context.Context, id string, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, grace+callTimeout)
	defer cancel()
	_, err := r.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: int64((grace + time.Second - 1) / time.Second)})
	if err != nil && !gone(err) {
		return fmt.Errorf("workers: stopping container %s: %w", id, err)
	}
	return nil
}

func (r *cri) removeContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := r.runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil && !gone(err) {
		return fmt.Errorf("workers: removing container %s: %w", id, err)
	}
	return nil
}

func (r *cri) stopSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := r.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil && !gone(err) {
		return fmt.Errorf("workers: stopping sandbox %s: %w", id, err)
	}
	return nil
}

func (r *cri) removeSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := r.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil && !gone(err) {
		return fmt.Errorf("workers: removing sandbox %s: %w", id, err)
	}
	return nil
}

func gone(err error) bool { return status.Code(err) == codes.NotFound }

// message is what an error of the runtime says, without the words of gRPC.
func message(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}
