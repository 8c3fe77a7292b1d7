package devices

import (
	"context"
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// plugin is a plugin that registered.
type plugin struct {
	resource string
	born     int64 // plugins are counted, so that the latest of a resource is known
	conn     *grpc.ClientConn
	client   api.DevicePluginClient
	cancel   context.CancelFunc // of its stream
	options  atomic.Pointer[api.DevicePluginOptions]
}

// dial prepares a connection to a plugin.
func dial(socket, resource string) (*plugin, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("devices: %s: %w", resource, err)
	}
	return &plugin{resource: resource, conn: conn, client: api.NewDevicePluginClient(conn)}, nil
}

// watch asks what the plugin can do, and hands on its devices, healthy or not, until the stream ends.
func (p *plugin) watch(ctx context.Context, tell func(map[string]bool)) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	options, err := p.client.GetDevicePluginOptions(call, &api.Empty{}, grpc.WaitForReady(true)) // it may register before it serves
	if err != nil {
		return err
	}
	p.options.Store(options)
	stream, err := p.client.ListAndWatch(ctx, &api.Empty{})
	if err != nil {
		return err
	}
	for {
		list, err := stream.Recv()
		if err != nil {
			return err
		}
		devices := make(map[string]bool, len(list.Devices))
		for _, d := range list.Devices {
			devices[d.ID] = d.Health == api.Healthy
		}
		tell(devices)
	}
}

// prefer asks the plugin which of the available devices it would take; nil: it does not care.
func (p *plugin) prefer(ctx context.Context, available, must []string, n int) ([]string, error) {
	if !p.options.Load().GetGetPreferredAllocationAvailable() {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := p.client.GetPreferredAllocation(ctx, &api.PreferredAllocationRequest{ContainerRequests: []*api.ContainerPreferredAllocationRequest{
		{AvailableDeviceIDs: available, MustIncludeDeviceIDs: must, AllocationSize: int32(n)},
	}})
	if err != nil {
		return nil, fmt.Errorf("device plugin GetPreferredAllocation rpc failed with err: %w", err)
	}
	if len(r.ContainerResponses) == 0 {
		return nil, nil
	}
	return r.ContainerResponses[0].DeviceIDs, nil
}

// allocate has the plugin make devices ready for a container, and returns what the container needs for them.
func (p *plugin) allocate(ctx context.Context, ids []string) (*api.ContainerAllocateResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := p.client.Allocate(ctx, &api.AllocateRequest{ContainerRequests: []*api.ContainerAllocateRequest{{DevicesIds: ids}}})
	if err != nil {
		return nil, fmt.Errorf("rpc error of device plugin %s: %w", p.resource, err)
	}
	if len(r.ContainerResponses) == 0 {
		return nil, fmt.Errorf("no containers in the response of device plugin %s", p.resource)
	}
	return r.ContainerResponses[0], nil
}

// start tells the plugin that a container with its devices is about to start, if it wants to know.
func (p *plugin) start(ctx context.Context, ids []string) error {
	if !p.options.Load().GetPreStartRequired() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := p.client.PreStartContainer(ctx, &api.PreStartContainerRequest{DevicesIds: ids}); err != nil {
		return fmt.Errorf("device plugin PreStartContainer rpc failed with err: %w", err)
	}
	return nil
}
