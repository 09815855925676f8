package registry

// Occupied are the repositories, of the registries whose ID begins with the prefix, that the cache rule would fill and
// that hold a layer which the rule's upstream has not served: it was pushed, imported, or fetched by a rule from
// elsewhere. dir is the storage directory of the process that serves them.
func Occupied(dir, idPrefix string, c CacheRule) ([]string, error) {
	r, err := parseRule(c)
	if err != nil {
		return nil, err
	}
	s := &storage{dir: dir}
	roots, err := s.roots(idPrefix)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, root := range roots {
		store := &registryStore{root: root}
		repositories, err := store.repositories()
		if err != nil {
			return nil, err
		}
		for _, repository := range repositories {
			from, covered := match([]rule{r}, repository)
			if !covered {
				continue
			}
			layers, err := store.layerLinks(repository)
			if err != nil {
				return nil, err
			}
			for digest := range layers {
				if !s.hasOrigin(digest, from) {
					out = append(out, repository)
					break
				}
			}
		}
	}
	return out, nil
}
