package cluster

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// contextName names the cluster, its user and their context in a kubeconfig.
const contextName = "keelson"

// WriteKubeconfig puts a way to reach the cluster into a kubeconfig file, readable by its owner only, and makes it the
// current one. What else is in the file stays. All but server and path are PEM.
func WriteKubeconfig(path, server string, ca, cert, key []byte) error {
	c, err := clientcmd.LoadFromFile(path)
	switch {
	case os.IsNotExist(err):
		c = clientcmdapi.NewConfig()
	case err != nil:
		return fmt.Errorf("cluster: the kubeconfig %s: %w", path, err)
	}
	c.Clusters[contextName] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	c.AuthInfos[contextName] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	c.Contexts[contextName] = &clientcmdapi.Context{Cluster: contextName, AuthInfo: contextName}
	c.CurrentContext = contextName
	b, err := clientcmd.Write(*c)
	if err != nil {
		return fmt.Errorf("cluster: the kubeconfig %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}

// forStrangers is a kubeconfig that says where a cluster is and by which authorities to know it, and nothing of a user.
func forStrangers(server string, ca []byte) (string, error) {
	c := clientcmdapi.NewConfig()
	c.Clusters[""] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	b, err := clientcmd.Write(*c)
	if err != nil {
		return "", fmt.Errorf("cluster: what strangers are told: %w", err)
	}
	return string(b), nil
}
