package environ

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// serviceVars are the variables of services that a pod sees: those of its namespace unless it does not want them, and
// always that of the API server.
func (e *Environ) serviceVars(pod *corev1.Pod) ([]corev1.EnvVar, error) {
	if e.cfg.Services == nil {
		return nil, nil
	}
	if !e.cfg.ServicesSynced() && pod.Annotations["kubernetes.io/config.source"] != "file" {
		return nil, fmt.Errorf("services have not yet been read at least once, cannot construct envvars")
	}
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	byName := map[string]*corev1.Service{}
	take := func(namespace string, wanted func(*corev1.Service) bool) error {
		services, err := e.cfg.Services.Services(namespace).List(labels.Everything())
		if err != nil {
			return fmt.Errorf("failed to list services when setting up env vars: %w", err)
		}
		for _, s := range services {
			if s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone && wanted(s) {
				byName[s.Name] = s
			}
		}
		return nil
	}
	isAPI := func(s *corev1.Service) bool { return s.Name == "kubernetes" && s.Namespace == metav1.NamespaceDefault }
	if err := take(metav1.NamespaceDefault, isAPI); err != nil {
		return nil, err
	}
	if links {
		if err := take(pod.Namespace, func(*corev1.Service) bool { return true }); err != nil {
			return nil, err
		}
	}
	var all []corev1.EnvVar
	for _, s := range byName {
		all = append(all, varsOf(s)...)
	}
	slices.SortStableFunc(all, func(a, b corev1.EnvVar) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// varsOf are the variables of one service, those of Docker's links among them.
func varsOf(s *corev1.Service) (all []corev1.EnvVar) {
	add := func(name, value string) { all = append(all, corev1.EnvVar{Name: name, Value: value}) }
	prefix, ip := varName(s.Name), s.Spec.ClusterIP
	add(prefix+"_SERVICE_HOST", ip)
	for i, p := range s.Spec.Ports {
		port := strconv.Itoa(int(p.Port))
		protocol := strings.ToLower(string(p.Protocol))
		if protocol == "" {
			protocol = "tcp"
		}
		url := fmt.Sprintf("%s://%s", protocol, net.JoinHostPort(ip, port))
		if i == 0 {
			add(prefix+"_SERVICE_PORT", port)
			add(prefix+"_PORT", url)
		}
		if p.Name != "" {
			add(prefix+"_SERVICE_PORT_"+varName(p.Name), port)
		}
		link := fmt.Sprintf("%s_PORT_%s_%s", prefix, port, strings.ToUpper(protocol))
		add(link, url)
		add(link+"_PROTO", protocol)
		add(link+"_PORT", port)
		add(link+"_ADDR", ip)
	}
	return all
}

// varName makes a name that a shell takes: "redis-primary" becomes "REDIS_PRIMARY".
func varName(name string) string {
	name = strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(name))
	if name != "" && name[0] >= '0' && name[0] <= '9' {
		return "_" + name
	}
	return name
}
