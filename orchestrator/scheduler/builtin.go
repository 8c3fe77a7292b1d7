package scheduler

import (
	"context"
	"fmt"
	"math/rand/v2"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/core"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
	"github.com/keelson-io/keelson/orchestrator/scheduler/plugins"
)

// Builtin makes the built-in plugins for a configuration. They bind through the client, which may be nil if nothing is bound.
func Builtin(client kubernetes.Interface, c *config.Configuration) core.Factory {
	table := plugins.Table()
	deps := plugins.Deps{Binder: apiBinder{client}, Volumes: apiVolumes{client}, IgnoredResources: ignoredResources(c), Offset: rand.IntN}
	return func(profile *config.Profile, name string) (framework.Plugin, error) {
		make, known := table[name]
		if !known {
			return nil, fmt.Errorf("there is no plugin %q", name)
		}
		return make(profile.ArgsOf(name), deps)
	}
}

// ignoredResources are those that extenders account for, and not the scheduler.
func ignoredResources(c *config.Configuration) []string {
	var out []string
	for i := range c.Extenders {
		for _, r := range c.Extenders[i].ManagedResources {
			if r.IgnoredByScheduler {
				out = append(out, r.Name)
			}
		}
	}
	return out
}

// apiBinder binds through the API.
type apiBinder struct{ client kubernetes.Interface }

func (b apiBinder) Bind(ctx context.Context, binding *v1.Binding) error {
	return b.client.CoreV1().Pods(binding.Namespace).Bind(ctx, binding, metav1.CreateOptions{})
}
