// Package inventory keeps the metadata of all objects of all resources that there are, custom ones too, for the controllers
// that look after everything: garbage collection and quotas.
//
// # Model
//
// There is one informer of metadata for each resource. Which resources there are is asked of discovery from time to time, and
// soon after a custom resource definition changed. Handlers are told of objects as they come, change and go. Objects are kept
// without labels, annotations and managed fields.
//
// # Concurrency
//
// Handlers are added before Run. A handler is called for one object of a resource at a time, but for several resources at
// once. Objects are shared and never changed.
package inventory
