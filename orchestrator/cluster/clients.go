package cluster

import (
	"fmt"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// clients is how a process reaches the API server. All roles of a process share its informers.
type clients struct {
	config *rest.Config
	client kubernetes.Interface
	shared informers.SharedInformerFactory
}

// newClients makes clients that call themselves agent. Who makes them shuts the informers down.
func newClients(config *rest.Config, agent string) (*clients, error) {
	config = rest.AddUserAgent(config, agent)
	config.WarningHandler = rest.NoWarnings{} // they are for people who can change what they ask for
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	return &clients{config: config, client: c, shared: informers.NewSharedInformerFactory(c, 0)}, nil
}
