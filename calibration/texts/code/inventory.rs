//! A small inventory: items are reserved, shipped or returned, and the stock never goes below zero.

use std::collections::BTreeMap;
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    UnknownItem(String),
    OutOfStock { item: String, wanted: u32, left: u32 },
    NothingReserved(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::UnknownItem(item) => write!(f, "there is no item called '{item}'"),
            Trouble::OutOfStock { item, wanted, left } => {
                write!(f, "'{item}': {wanted} wanted, {left} left")
            }
            Trouble::NothingReserved(item) => write!(f, "'{item}': nothing is reserved"),
        }
    }
}

impl std::error::Error for Trouble {}

#[derive(Default, Debug)]
struct Shelf {
    free: u32,
    reserved: u32,
}

#[derive(Default, Debug)]
pub struct Inventory {
    shelves: BTreeMap<String, Shelf>,
}

impl Inventory {
    pub fn deliver(&mut self, item: &str, count: u32) {
        self.shelves.entry(item.to_owned()).or_default().free += count;
    }

    pub fn reserve(&mut self, item: &str, count: u32) -> Result<(), Trouble> {
        let shelf = self.shelf(item)?;
        if shelf.free < count {
            return Err(Trouble::OutOfStock { item: item.to_owned(), wanted: count, left: shelf.free });
        }
        shelf.free -= count;
        shelf.reserved += count;
        Ok(())
    }

    pub fn ship(&mut self, item: &str) -> Result<u32, Trouble> {
        let shelf = self.shelf(item)?;
        match std::mem::take(&mut shelf.reserved) {
            0 => Err(Trouble::NothingReserved(item.to_owned())),
            count => Ok(count),
        }
    }

    pub fn report(&self) -> impl Iterator<Item = (&str, u32, u32)> {
        self.shelves.iter().map(|(name, shelf)| (name.as_str(), shelf.free, shelf.reserved))
    }

    fn shelf(&mut self, item: &str) -> Result<&mut Shelf, Trouble> {
        self.shelves.get_mut(item).ok_or_else(|| Trouble::UnknownItem(item.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_never_goes_below_zero() {
        let mut inventory = Inventory::default();
        inventory.deliver("lamp", 3);
        inventory.reserve("lamp", 2).unwrap();
        let refused = inventory.reserve("lamp", 2).unwrap_err();
        assert_eq!(refused.to_string(), "'lamp': 2 wanted, 1 left");
        assert_eq!(inventory.ship("lamp"), Ok(2));
        assert_eq!(inventory.report().collect::<Vec<_>>(), [("lamp", 1, 0)]);
    }

    #[test]
    fn unknown_items_are_named() {
        let mut inventory = Inventory::default();
        assert_eq!(inventory.ship("sofa"), Err(Trouble::UnknownItem("sofa".into())));
    }
}
