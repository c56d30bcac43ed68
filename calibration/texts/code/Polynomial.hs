module Polynomial
  ( Polynomial
  , fromCoefficients
  , degree
  , evaluate
  , derivative
  , newton
  ) where

import Data.List (dropWhileEnd, intercalate)

-- | Coefficients from the constant term upwards, without zeros at the end.
newtype Polynomial a = Polynomial [a] deriving (Eq)

fromCoefficients :: (Eq a, Num a) => [a] -> Polynomial a
fromCoefficients = Polynomial . dropWhileEnd (== 0)

degree :: Polynomial a -> Maybe Int
degree (Polynomial []) = Nothing
degree (Polynomial cs) = Just (length cs - 1)

-- | Horner's rule.
evaluate :: Num a => Polynomial a -> a -> a
evaluate (Polynomial cs) x = foldr (\c acc -> c + x * acc) 0 cs

derivative :: (Eq a, Num a) => Polynomial a -> Polynomial a
derivative (Polynomial []) = Polynomial []
derivative (Polynomial (_ : cs)) = fromCoefficients (zipWith (*) (map fromInteger [1 ..]) cs)

instance (Eq a, Num a) => Num (Polynomial a) where
  Polynomial as + Polynomial bs = fromCoefficients (go as bs)
    where
      go (x : xs) (y : ys) = x + y : go xs ys
      go xs [] = xs
      go [] ys = ys
  Polynomial as * p = sum' [shift n (scale a p) | (n, a) <- zip [0 ..] as]
    where
      scale k (Polynomial cs) = fromCoefficients (map (k *) cs)
      shift n (Polynomial cs) = fromCoefficients (replicate n 0 ++ cs)
      sum' = foldr (+) (Polynomial [])
  negate (Polynomial cs) = Polynomial (map negate cs)
  abs = id
  signum = id
  fromInteger n = fromCoefficients [fromInteger n]

instance (Show a, Eq a, Num a) => Show (Polynomial a) where
  show (Polynomial []) = "0"
  show (Polynomial cs) = intercalate " + " [term n c | (n, c) <- zip [0 :: Int ..] cs, c /= 0]
    where
      term 0 c = show c
      term 1 c = show c ++ "x"
      term n c = show c ++ "x^" ++ show n

-- | A root near the given start, or Nothing if the steps do not settle.
newton :: Polynomial Double -> Double -> Maybe Double
newton p = go (50 :: Int)
  where
    p' = derivative p
    go 0 _ = Nothing
    go n x
      | abs step < 1e-12 * max 1 (abs x) = Just x
      | isNaN step || isInfinite step = Nothing
      | otherwise = go (n - 1) (x - step)
      where
        step = evaluate p x / evaluate p' x
