package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/srv"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/discovery"
	"github.com/keelson-io/keelson/server/membership"
)

// configured is the cluster to begin with, as name=url,..., and its token. With a discovery service it is this member alone:
// the others are found later.
func configured(ctx context.Context, cfg *config.Config, env Env) (cluster, token string, err error) {
	b := &cfg.Bootstrap
	switch {
	case b.Discovery.ByService():
		return cfg.Alone(), b.Discovery.Token, nil
	case b.Discovery.Domain != "":
		cluster, err = byRecords(ctx, cfg, env)
		return cluster, b.ClusterToken, err
	}
	return b.Cluster, b.ClusterToken, nil
}

// byRecords finds the members by SRV records.
func byRecords(ctx context.Context, cfg *config.Config, env Env) (string, error) {
	d := &cfg.Bootstrap.Discovery
	members, err := srv.Members(ctx, env.Names, d.Domain, d.Suffix, cfg.Name, cfg.Listen.AdvertisePeerURLs)
	if len(members) == 0 {
		if err == nil {
			err = errors.New("there are no records")
		}
		return "", fmt.Errorf("--discovery-srv: %w", err)
	}
	if err != nil {
		env.Logger.Warn("failed to resolve during SRV discovery", zap.Error(err))
	}
	env.Logger.Info("got bootstrap from DNS for etcd-server", zap.Strings("members", members))
	if !slices.ContainsFunc(members, func(m string) bool { return strings.HasPrefix(m, cfg.Name+"=") }) {
		return "", fmt.Errorf("cannot find local etcd member %q in SRV records", cfg.Name)
	}
	return strings.Join(members, ","), nil
}

// byService finds the members of a new cluster through a discovery service.
func byService(ctx context.Context, cfg *config.Config, env Env, mcfg membership.Config, self uint64) (*membership.Cluster, error) {
	d := &cfg.Bootstrap.Discovery
	env.Logger.Info("bootstrapping the cluster by a discovery service", zap.Strings("discovery-endpoints", d.Endpoints))
	found, err := discovery.Join(ctx, d, self, cfg.Alone(), env.Logger)
	if err != nil {
		return nil, err
	}
	cl, err := membership.NewFromInitialCluster(mcfg, d.Token, found)
	if err != nil {
		return nil, err
	}
	if err := cl.CheckSelf(cfg.Name, cfg.Listen.AdvertisePeerURLs, false); err != nil {
		return nil, err
	}
	if cl.Member(self) == nil {
		return nil, fmt.Errorf("another member of the discovered cluster %s has the name %q, too", found, cfg.Name)
	}
	return cl, nil
}
