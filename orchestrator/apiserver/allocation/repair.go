package allocation

import (
	"context"
	"errors"
	"math/big"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

const (
	repairEvery = 3 * time.Minute
	// orphanAge is how old an address must be to count as left behind: its service may be about to be stored.
	orphanAge = time.Minute
)

// Run repairs from time to time until the context ends.
func (a *Services) Run(ctx context.Context) {
	t := a.cfg.Clock.NewTicker(repairEvery)
	defer t.Stop()
	leaked := map[int32]bool{}
	for {
		if err := a.Repair(ctx, leaked); err != nil && ctx.Err() == nil {
			a.cfg.Logger.Warn("cluster IPs and node ports could not be repaired", zap.Error(err))
		}
		select {
		case <-t.C():
		case <-ctx.Done():
			return
		}
	}
}

// Repair gives back what belongs to no service, and takes what services have. A port counts as left behind when it was found
// so twice: leaked is those that were found the last time.
func (a *Services) Repair(ctx context.Context, leaked map[int32]bool) error {
	services, err := a.cfg.Services.List(ctx, objectstore.ListQuery{})
	if err != nil {
		return err
	}
	owner := map[string]*corev1.Service{}
	var used []int32
	for _, it := range services.Items {
		svc := it.Object.(*corev1.Service)
		if hasIPs(svc) {
			for _, ip := range svc.Spec.ClusterIPs {
				owner[ip] = svc
			}
		}
		used = append(used, nodePorts(svc)...)
	}
	return errors.Join(a.repairAddresses(ctx, owner), a.repairPorts(ctx, used, leaked))
}

func (a *Services) repairAddresses(ctx context.Context, owner map[string]*corev1.Service) error {
	page, err := a.cfg.Addresses.List(ctx, objectstore.ListQuery{})
	if err != nil {
		return err
	}
	var errs []error
	have := map[string]bool{}
	for _, it := range page.Items {
		ip := it.Object.(*networkingv1.IPAddress)
		have[ip.Name] = true
		svc := owner[ip.Name]
		if ip.Labels[managerLabel] != manager || svc != nil && ownedBy(ip, svc.Namespace, svc.Name) || a.cfg.Clock.Now().Sub(ip.CreationTimestamp.Time) < orphanAge {
			continue
		}
		a.cfg.Logger.Info("a cluster IP belongs to no service", zap.String("address", ip.Name))
		_, err := a.cfg.Addresses.Delete(ctx, "", ip.Name, func(now *objectstore.Item) error {
			if now.Revision != it.Revision {
				return apierrors.NewNotFound(networkingv1.Resource("ipaddresses"), ip.Name)
			}
			return nil
		})
		if err == nil {
			have[ip.Name] = false
		} else if !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	for ip, svc := range owner {
		addr, perr := netip.ParseAddr(ip)
		if have[ip] || perr != nil {
			continue
		}
		if err := a.addresses.take(ctx, addr, svc); err != nil && !apierrors.IsAlreadyExists(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

var errNothingToDo = errors.New("nothing is wrong")

func (a *Services) repairPorts(ctx context.Context, used []int32, leaked map[int32]bool) error {
	all := a.cfg.Ports
	err := a.ports.change(ctx, func(bits *big.Int) error {
		changed := false
		found := map[int32]bool{}
		for port := all.First; port <= all.Last; port++ {
			at := int(port - all.First)
			is, should := bits.Bit(at) == 1, slices.Contains(used, port)
			switch {
			case should && !is:
				bits.SetBit(bits, at, 1)
				changed = true
			case is && !should && leaked[port]:
				bits.SetBit(bits, at, 0)
				changed = true
			case is && !should:
				found[port] = true
			}
		}
		clear(leaked)
		for port := range found {
			leaked[port] = true
		}
		if !changed {
			return errNothingToDo
		}
		return nil
	})
	if errors.Is(err, errNothingToDo) {
		return nil
	}
	return err
}
