package config

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The names under which Kubernetes knows the file and the default scheduler.
const (
	APIVersion           = "kubescheduler.config.k8s.io/v1"
	Kind                 = "KubeSchedulerConfiguration"
	DefaultSchedulerName = "default-scheduler"
)

// Configuration is the file.
type Configuration struct {
	metav1.TypeMeta          `json:",inline"`
	Parallelism              *int32           `json:"parallelism,omitempty"`
	LeaderElection           LeaderElection   `json:"leaderElection,omitzero"`
	ClientConnection         ClientConnection `json:"clientConnection,omitzero"`
	Debugging                `json:",inline"`
	PercentageOfNodesToScore *int32     `json:"percentageOfNodesToScore,omitempty"`
	PodInitialBackoffSeconds *int64     `json:"podInitialBackoffSeconds,omitempty"`
	PodMaxBackoffSeconds     *int64     `json:"podMaxBackoffSeconds,omitempty"`
	Profiles                 []Profile  `json:"profiles,omitempty"`
	Extenders                []Extender `json:"extenders,omitempty"`
	DelayCacheUntilActive    bool       `json:"delayCacheUntilActive,omitempty"`
}

// LeaderElection is kept for whoever elects the leader; the scheduler itself does not.
type LeaderElection struct {
	LeaderElect       *bool           `json:"leaderElect,omitempty"`
	LeaseDuration     metav1.Duration `json:"leaseDuration,omitzero"`
	RenewDeadline     metav1.Duration `json:"renewDeadline,omitzero"`
	RetryPeriod       metav1.Duration `json:"retryPeriod,omitzero"`
	ResourceLock      string          `json:"resourceLock,omitempty"`
	ResourceName      string          `json:"resourceName,omitempty"`
	ResourceNamespace string          `json:"resourceNamespace,omitempty"`
}

// ClientConnection is kept for whoever makes the client.
type ClientConnection struct {
	Kubeconfig         string  `json:"kubeconfig,omitempty"`
	AcceptContentTypes string  `json:"acceptContentTypes,omitempty"`
	ContentType        string  `json:"contentType,omitempty"`
	QPS                float32 `json:"qps,omitempty"`
	Burst              int32   `json:"burst,omitempty"`
}

// Debugging is kept for whoever serves profiles.
type Debugging struct {
	EnableProfiling           *bool `json:"enableProfiling,omitempty"`
	EnableContentionProfiling *bool `json:"enableContentionProfiling,omitempty"`
}

// Profile is a scheduler of its own name: a choice of plugins with their arguments.
type Profile struct {
	SchedulerName            string         `json:"schedulerName,omitempty"`
	PercentageOfNodesToScore *int32         `json:"percentageOfNodesToScore,omitempty"`
	Plugins                  *Plugins       `json:"plugins,omitempty"`
	PluginConfig             []PluginConfig `json:"pluginConfig,omitempty"`
}

// Plugins says for each extension point which plugins run. MultiPoint stands for all points that a plugin has.
type Plugins struct {
	PreEnqueue         PluginSet `json:"preEnqueue,omitzero"`
	QueueSort          PluginSet `json:"queueSort,omitzero"`
	PreFilter          PluginSet `json:"preFilter,omitzero"`
	Filter             PluginSet `json:"filter,omitzero"`
	PostFilter         PluginSet `json:"postFilter,omitzero"`
	PreScore           PluginSet `json:"preScore,omitzero"`
	Score              PluginSet `json:"score,omitzero"`
	Reserve            PluginSet `json:"reserve,omitzero"`
	Permit             PluginSet `json:"permit,omitzero"`
	PreBind            PluginSet `json:"preBind,omitzero"`
	Bind               PluginSet `json:"bind,omitzero"`
	PostBind           PluginSet `json:"postBind,omitzero"`
	MultiPoint         PluginSet `json:"multiPoint,omitzero"`
	PlacementGenerate  PluginSet `json:"placementGenerate,omitzero"`
	PlacementScore     PluginSet `json:"placementScore,omitzero"`
	PodGroupPostFilter PluginSet `json:"podGroupPostFilter,omitzero"`
}

// PluginSet are the plugins of one extension point. Disabled takes "*" for all.
type PluginSet struct {
	Enabled  []Plugin `json:"enabled,omitempty"`
	Disabled []Plugin `json:"disabled,omitempty"`
}

// Plugin is a plugin's name, with the weight of its scores.
type Plugin struct {
	Name   string `json:"name"`
	Weight *int32 `json:"weight,omitempty"`
}

// PluginConfig are a plugin's arguments: one of this package's argument types for the plugins that it knows.
type PluginConfig struct {
	Name string          `json:"name"`
	Args json.RawMessage `json:"args,omitempty"`
	// Decoded is set by Parse and Default: a pointer to the arguments, or nil for an unknown plugin.
	Decoded any `json:"-"`
}

// Extender is an HTTP server that has a say in scheduling.
type Extender struct {
	URLPrefix        string            `json:"urlPrefix"`
	FilterVerb       string            `json:"filterVerb,omitempty"`
	PreemptVerb      string            `json:"preemptVerb,omitempty"`
	PrioritizeVerb   string            `json:"prioritizeVerb,omitempty"`
	Weight           int64             `json:"weight,omitempty"`
	BindVerb         string            `json:"bindVerb,omitempty"`
	EnableHTTPS      bool              `json:"enableHTTPS,omitempty"`
	TLSConfig        *ExtenderTLS      `json:"tlsConfig,omitempty"`
	HTTPTimeout      metav1.Duration   `json:"httpTimeout,omitzero"`
	NodeCacheCapable bool              `json:"nodeCacheCapable,omitempty"`
	ManagedResources []ManagedResource `json:"managedResources,omitempty"`
	Ignorable        bool              `json:"ignorable,omitempty"`
}

// ManagedResource is an extended resource whose pods an extender wants to see.
type ManagedResource struct {
	Name               string `json:"name"`
	IgnoredByScheduler bool   `json:"ignoredByScheduler,omitempty"`
}

// ExtenderTLS says how to reach an extender over TLS. Data goes before files.
type ExtenderTLS struct {
	Insecure   bool   `json:"insecure,omitempty"`
	ServerName string `json:"serverName,omitempty"`
	CertFile   string `json:"certFile,omitempty"`
	KeyFile    string `json:"keyFile,omitempty"`
	CAFile     string `json:"caFile,omitempty"`
	CertData   []byte `json:"certData,omitempty"`
	KeyData    []byte `json:"keyData,omitempty"`
	CAData     []byte `json:"caData,omitempty"`
}
