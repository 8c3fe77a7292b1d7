// Package config is kube-scheduler's configuration file: kind KubeSchedulerConfiguration, apiVersion
// kubescheduler.config.k8s.io/v1, with profiles, plugins, their arguments, and extenders.
//
// Parse reads a file strictly (an unknown or doubled field is an error that names it), fills in the defaults, and
// checks the whole; all that is wrong is reported at once, each with the path of its field. What comes out of Parse or
// Default needs no further checks, except that plugins which this package does not know keep their arguments raw.
//
// # Concurrency
//
// A Configuration is plain data; nothing here is shared.
package config
