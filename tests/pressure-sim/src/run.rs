//! One law in one scenario.

use crate::figures::{Figures, Watch};
use crate::law::Law;
use crate::scenario::Scenario;
use crate::world::World;

/// Runs the law through the scenario. `each` sees every tick.
pub fn run_with(scenario: &Scenario, law: &mut dyn Law, mut each: impl FnMut(&World)) -> Figures {
    let mut world = World::new(scenario);
    let mut watch = Watch::new(world.containers.len());
    let mut events = scenario.events.iter().peekable();
    let mut acts = Vec::new();
    while world.tick < scenario.ticks {
        while let Some(event) = events.next_if(|event| event.at <= world.tick) {
            world.change(event.who, event.change);
            watch.event(event);
        }
        world.step();
        acts.clear();
        law.look(&world, &mut acts);
        watch.tick(&world, &acts);
        for act in &acts {
            world.order(*act);
        }
        each(&world);
    }
    watch.finish(&world)
}

/// Runs the law through the scenario.
pub fn run(scenario: &Scenario, law: &mut dyn Law) -> Figures {
    run_with(scenario, law, |_| {})
}
