package admission

// course is what plugins remember between the rounds of one request's mutation.
type course struct {
	again, second bool
	states        map[any]any
}

func (a *Attributes) onCourse() *course {
	if a.course == nil {
		a.course = &course{}
	}
	return a.course
}

// Reinvoke asks for a second round of the mutating plugins.
func (a *Attributes) Reinvoke() { a.onCourse().again = true }

// Reinvoked says that this is the second round.
func (a *Attributes) Reinvoked() bool { return a.onCourse().second }

// State returns what a plugin keeps between the rounds of a request, as *T. It starts as zero; key is the plugin's own.
func State[T any](a *Attributes, key any) *T {
	c := a.onCourse()
	if s, ok := c.states[key].(*T); ok {
		return s
	}
	if c.states == nil {
		c.states = map[any]any{}
	}
	s := new(T)
	c.states[key] = s
	return s
}

// AddWarning tells the client, if somebody listens.
func (a *Attributes) AddWarning(text string) {
	if a.Warn != nil {
		a.Warn(text)
	}
}

// AddAnnotation tells the audit log, if somebody listens.
func (a *Attributes) AddAnnotation(key, value string) {
	if a.Annotate != nil {
		a.Annotate(key, value)
	}
}
