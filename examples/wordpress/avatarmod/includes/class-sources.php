<?php
/**
 * Which picture is whose, whatever plugin keeps it.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** Simple Local Avatars, BuddyPress, our own field, and whatever else fills in `pre_get_avatar_data`. */
final class Sources {

	/** While true, Display lets pass what others say. */
	public static bool $is_asking = false;

	/** The picture that somebody has chosen; null for none. */
	public static function of_user( int $user_id ): ?Picture {
		self::$is_asking = true;
		try {
			$said = apply_filters( 'pre_get_avatar_data', self::question(), $user_id );
		} finally {
			self::$is_asking = false;
		}
		return self::behind( $user_id, (string) ( $said['url'] ?? '' ) );
	}

	/** The picture behind an address that another plugin would show for somebody, or theirs elsewhere. */
	public static function behind( int $user_id, string $url ): ?Picture {
		$theirs  = Buddypress::picture( $user_id );
		$picture = null;
		if ( null !== $theirs && in_array( Picture::name_of( $url ), $theirs->files(), true ) ) {
			$picture = $theirs;
		} elseif ( '' !== $url ) {
			$picture = self::simple_local_avatar( $user_id, $url ) ?? Picture::at( $url );
		}
		$picture = $picture ?? $theirs ?? Own_Field::picture( $user_id );
		/**
		 * Another plugin's picture of a user, as a name below the folder of uploads.
		 *
		 * @param string $name    What was found; empty for nothing.
		 * @param int    $user_id Whose.
		 */
		$name = (string) apply_filters( 'avatarmod_picture', $picture ? $picture->name : '', $user_id );
		return null !== $picture && $name === $picture->name ? $picture : Picture::named( $name );
	}

	/** Simple Local Avatars names the picture and the copies that it made in one meta value. */
	private static function simple_local_avatar( int $user_id, string $url ): ?Picture {
		$known = get_user_meta( $user_id, 'simple_local_avatar', true );
		$full  = is_array( $known ) ? (string) ( $known['full'] ?? '' ) : '';
		if ( '' === $full ) {
			return null;
		}
		$names = array();
		foreach ( $known as $size => $one ) {
			if ( 'full' === $size || is_int( $size ) ) {
				$names[] = Picture::name_of( 0 === strpos( (string) $one, 'http' ) ? $one : home_url( $one ) );
			}
		}
		$names = array_values( array_filter( $names ) );
		if ( ! in_array( Picture::name_of( $url ), $names, true ) ) {
			return null;
		}
		$picture = Picture::at( 0 === strpos( $full, 'http' ) ? $full : home_url( $full ) );
		if ( null !== $picture ) {
			$picture->copies = $names;
		}
		return $picture;
	}

	/** As get_avatar_data() asks. */
	private static function question(): array {
		return array(
			'size'          => 512,
			'height'        => 512,
			'width'         => 512,
			'default'       => 'mystery',
			'force_default' => false,
			'rating'        => 'g',
			'scheme'        => null,
			'found_avatar'  => false,
		);
	}
}
