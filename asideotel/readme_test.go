package asideotel_test

import (
	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asideotel"
)

// readme is README.md's excerpt, so that it is compiled.
func readme(cfg aside.Config) error {
	telemetry, err := asideotel.New(asideotel.Options{Name: "chat"}) // with the global providers
	if err != nil {
		return err
	}
	cfg.Hooks = append(cfg.Hooks, telemetry.Hooks())
	cache, err := aside.Open(cfg)
	if err != nil {
		return err
	}
	err = telemetry.Watch(cache)
	return err
}

var _ = readme
