package server

// Diverge changes a key of this member only, as a fault of its memory or of the program would.
func (s *Server) Diverge(key, value string) {
	_, release := s.member.machine.Hold()
	defer release()
	store := s.member.state.Store
	w := store.Write()
	w.Put([]byte(key), []byte(value), 0)
	w.End()
	store.Publish()
}
